{{ config(meta={'covers': 'warm_hours'}, pre_hook='{{ keep_cold_as_it_is() }}') }}
{%- set edges = dwell_edges() %}
-- The one reading of the warehouse that all aggregates come from, so that they agree with each other.
with seen as (
    select
        site_id, camera_id, hour, local_day, class_id,
        count(*) as tracks,
        array[
            {%- for edge in edges %}
            count(*) filter (where dwell_s >= {{ edge }}{% if not loop.last %} and dwell_s < {{ edges[loop.index] }}{% endif %})
            {{- ',' if not loop.last }}
            {%- endfor %}
        ]::bigint[] as tracks_by_dwell
    from {{ ref('stg_tracks') }}
    -- A track that began on a day that is cold is counted there already; of it only the later pieces are here.
    where {{ on_days('first_seen_at') }} and track_day = {{ utc_date('first_seen_at') }}
    group by site_id, camera_id, hour, local_day, class_id
),

found as (
    select site_id, camera_id, hour, local_day, class_id, count(*) as detections
    from {{ ref('stg_detections') }}
    group by site_id, camera_id, hour, local_day, class_id
)

select
    site_id,
    camera_id,
    hour,
    local_day as day,
    class_id,
    coalesce(tracks, 0)::bigint as tracks,
    coalesce(detections, 0)::bigint as detections,
    coalesce(tracks_by_dwell, array_fill(0::bigint, array[{{ edges | length }}])) as tracks_by_dwell
from (seen full join found using (site_id, camera_id, hour, local_day, class_id)) as cells
where not {{ is_cold('cells.camera_id', utc_date('cells.hour')) }}
