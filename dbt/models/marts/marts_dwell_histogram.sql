{{ config(alias='dwell_histogram') }}
select site_id, day, class_id, class_name, dwell_from_s, dwell_to_s, tracks
from {{ ref('publication') }}
where kind = 'dwell'
