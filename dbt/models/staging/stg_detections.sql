-- Detections of the days, each with its site, hour and local day.
select
    cameras.site_id,
    cameras.camera_id,
    date_trunc('hour', detections."timestamp", 'UTC') as hour,
    (detections."timestamp" at time zone cameras.time_zone)::date as local_day,
    detections.class_id
from {{ source('warehouse', 'detections') }} as detections
join {{ ref('stg_cameras') }} as cameras on cameras.camera_id = detections.camera_id
where {{ on_days('detections."timestamp"') }}
