{{ config(meta={'covers': 'local_days'}) }}
select
    cells.site_id,
    cells.day,
    cells.class_id,
    coalesce(min(classes.class_name), 'class ' || cells.class_id) as class_name,
    edges.from_s as dwell_from_s,
    edges.to_s as dwell_to_s,
    sum(cells.tracks_by_dwell[edges.bucket])::bigint as tracks
from {{ ref('hourly_cells') }} as cells
join ({{ local_days() }}) as covered on covered.site_id = cells.site_id and covered.local_day = cells.day
cross join ({{ dwell_buckets() }}) as edges
left join {{ ref('stg_classes') }} as classes using (class_id)
group by cells.site_id, cells.day, cells.class_id, edges.from_s, edges.to_s
having sum(cells.tracks_by_dwell[edges.bucket]) > 0
