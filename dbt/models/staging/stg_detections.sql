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
  -- What a live producer told of a moment its clip tells too, and hours count by clips.
  and left(detections.clip_s3_key, 5) <> 'live/'
