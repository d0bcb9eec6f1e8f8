{{ config(alias='camera_hourly') }}
select
    site_id,
    camera_id,
    hour,
    class_id,
    class_name,
    sum(tracks)::bigint as tracks,
    sum(detections)::bigint as detections
from {{ ref('publication') }}
where kind = 'camera_hour'
group by site_id, camera_id, hour, class_id, class_name
