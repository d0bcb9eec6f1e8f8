{{ config(meta={'covers': 'hours'}) }}
select
    cells.site_id,
    cells.camera_id,
    cells.hour,
    cells.class_id,
    coalesce(min(classes.class_name), 'class ' || cells.class_id) as class_name,
    sum(cells.tracks)::bigint as tracks,
    sum(cells.detections)::bigint as detections
from {{ ref('hourly_cells') }} as cells
left join {{ ref('stg_classes') }} as classes using (class_id)
where {{ on_days('cells.hour') }}
group by cells.site_id, cells.camera_id, cells.hour, cells.class_id
