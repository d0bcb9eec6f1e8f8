-- Hours of footage around the days: (site_id, camera_id, hour, local_day), whether or not anything was seen.
select distinct
    cameras.site_id,
    cameras.camera_id,
    spans.hour,
    (case when half.late then spans.hour + interval '1 hour' - interval '1 microsecond' else spans.hour end
        at time zone cameras.time_zone)::date as local_day
from {{ source('warehouse', 'clip_facts') }} as facts
join {{ ref('stg_cameras') }} as cameras using (camera_id)
cross join lateral generate_series(
    date_trunc('hour', facts.captured_at, 'UTC'),
    -- The time of the last frame that was looked at.
    facts.captured_at
    + coalesce(facts.frame_offsets_us[array_upper(facts.frame_offsets_us, 1)], 0) * interval '1 microsecond',
    interval '1 hour'
) as spans (hour)
-- An hour that holds a local midnight (time zones off by half an hour) is a part of both days.
cross join (values (false), (true)) as half (late)
{% if day_list() -%}
where facts.captured_at >= timestamptz '{{ day_list() | first }} 00:00:00+00' - interval '3 days'
  and facts.captured_at < timestamptz '{{ day_list() | last }} 00:00:00+00' + interval '3 days'
{%- else -%}
where false
{%- endif %}
