{{ config(meta={'covers': 'track_days'}) }}
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
from {{ ref('stg_tracks') }}
where track_day = any ({{ days() }})
