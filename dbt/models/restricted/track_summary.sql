{{ config(meta={'covers': 'warm_track_days'}, pre_hook='{{ keep_cold_as_it_is() }}') }}
select
    site_id,
    camera_id,
    track_day,
    track_id,
    class_id,
    first_seen_at,
    last_seen_at,
    dwell_s,
    detections,
    clips
from {{ ref('stg_tracks') }} as tracked
where track_day = any ({{ days() }}) and not {{ is_cold('tracked.camera_id', 'tracked.track_day') }}
