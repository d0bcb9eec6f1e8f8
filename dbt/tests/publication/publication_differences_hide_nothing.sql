{{ config(meta={'dagster': {'ref': {'name': 'publication'}}}) }}
{%- set k = least_count() %}
-- What a site's day holds more than its published hours is nothing, or the pool of at least k; its dwell buckets add up.
with sums as (
    select
        site_id, day, class_id,
        sum(tracks) filter (where kind = 'site_day') as total,
        coalesce(sum(tracks) filter (where kind = 'camera_hour'), 0) as hours,
        sum(tracks) filter (where kind = 'dwell') as dwell
    from {{ ref('publication') }}
    group by site_id, day, class_id
)

select 1 as failing
from sums
where total is null or dwell is distinct from total or not (total = hours or total - hours >= {{ k }})
