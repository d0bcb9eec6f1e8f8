{{ config(meta={'covers': 'local_days'}) }}
select
    cells.site_id,
    cells.day,
    cells.class_id,
    coalesce(min(classes.class_name), 'class ' || cells.class_id) as class_name,
    sum(cells.tracks)::bigint as tracks,
    sum(cells.detections)::bigint as detections
from {{ ref('hourly_cells') }} as cells
join ({{ local_days() }}) as covered on covered.site_id = cells.site_id and covered.local_day = cells.day
left join {{ ref('stg_classes') }} as classes using (class_id)
group by cells.site_id, cells.day, cells.class_id
