-- Whole tracks, a row each, of all that were seen on one of the days or began on one: the pieces of a track that crosses
-- clips, hours or midnight are put together first. A track is known by (camera_id, track_day, track_id).
with touched as (
    select distinct camera_id, track_day, track_id
    from {{ source('warehouse', 'tracks') }}
    {% if day_list() -%}
    where "timestamp" >= timestamptz '{{ day_list() | first }} 00:00:00+00'
      and (track_day = any ({{ days() }}) or {{ on_days('"timestamp"') }})
    {%- else -%}
    where false
    {%- endif %}
),

whole as (
    select
        pieces.camera_id::text as camera_id,
        pieces.track_day,
        pieces.track_id,
        -- The class that most detections say; the lower one where two tie.
        (array_agg(pieces.class_id order by pieces.detections desc, pieces.class_id))[1] as class_id,
        min(pieces."timestamp") as first_seen_at,
        max(pieces.last_seen_at) as last_seen_at,
        sum(pieces.detections)::bigint as detections,
        count(*)::integer as clips
    from {{ source('warehouse', 'tracks') }} as pieces
    join touched using (camera_id, track_day, track_id)
    where pieces."timestamp" >= (select min(track_day)::timestamp at time zone 'UTC' from touched)
    group by pieces.camera_id, pieces.track_day, pieces.track_id
)

select
    cameras.site_id,
    whole.*,
    date_trunc('hour', whole.first_seen_at, 'UTC') as hour,
    (whole.first_seen_at at time zone cameras.time_zone)::date as local_day,
    extract(epoch from whole.last_seen_at - whole.first_seen_at)::double precision as dwell_s
from whole
join {{ ref('stg_cameras') }} as cameras using (camera_id)
