{{ config(alias='site_daily') }}
select site_id, day, class_id, class_name, tracks, detections
from {{ ref('publication') }}
where kind = 'site_day'
