{{ config(meta={'covers': 'local_days'}) }}
{%- set k = least_count() -%}
{%- set edges = dwell_edges() %}
-- Everything that analysts may see about tracks, and nothing else: the views in `marts` only read this table. One table,
-- so that one transaction changes them all. docs/aggregates.md says why no difference between numbers gives more away.
with covered as (
    {{ local_days() }}
),

cells as (
    select cells.*, cells.tracks >= {{ k }} as visible
    from {{ ref('hourly_cells') }} as cells
    join covered on covered.site_id = cells.site_id and covered.local_day = cells.day
),

-- How many (camera, hour) could hold a track at all: a number that does not depend on who was there.
leaves as (
    select footage.site_id, footage.local_day as day, count(*) as leaves
    from {{ ref('stg_footage') }} as footage
    join covered using (site_id, local_day)
    group by footage.site_id, footage.local_day
),

days as (
    select
        site_id, day, class_id,
        coalesce(sum(cells.tracks) filter (where visible), 0)::bigint as visible_tracks,
        coalesce(sum(cells.detections) filter (where visible), 0)::bigint as visible_detections,
        coalesce(sum(cells.tracks) filter (where not visible), 0)::bigint as rest_tracks,
        coalesce(sum(cells.detections) filter (where not visible), 0)::bigint as rest_detections,
        coalesce(min(leaves.leaves), 0) - count(*) filter (where visible) as hidden_leaves
    from cells
    left join leaves using (site_id, day)
    group by site_id, day, class_id
),

-- The cells that are too small are pooled; the pool counts where each of them could still hold 0 to k - 1.
decided as (
    select
        *,
        rest_tracks >= {{ k }} and rest_tracks <= (hidden_leaves - 1) * {{ k - 1 }} as rest_visible
    from days
),

totals as (
    select
        site_id, day, class_id,
        visible_tracks + case when rest_visible then rest_tracks else 0 end as tracks,
        visible_detections + case when rest_visible then rest_detections else 0 end as detections
    from decided
),

dwell as (
    select
        cells.site_id, cells.day, cells.class_id,
        array[
            {%- for edge in edges %}
            sum(cells.tracks_by_dwell[{{ loop.index }}])::bigint{{ ',' if not loop.last }}
            {%- endfor %}
        ] as dwell
    from cells
    join decided using (site_id, day, class_id)
    where cells.visible or decided.rest_visible
    group by cells.site_id, cells.day, cells.class_id
),

histogram as (
    {%- for low, high in dwell_tree() %}
    select
        site_id, day, class_id,
        {{ edges[low - 1] }} as dwell_from_s,
        {{ 'null::integer' if high == edges | length else edges[high] }} as dwell_to_s,
        {{ dwell_count(low, high) }} as tracks
    from dwell
    where {{ dwell_published(low, high) }}
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

published as (
    select
        'camera_hour' as kind, site_id, day, class_id, camera_id, hour,
        null::integer as dwell_from_s, null::integer as dwell_to_s, tracks, detections
    from cells
    where visible
    union all
    select 'site_day', site_id, day, class_id, null, null, null, null, tracks, detections
    from totals
    where tracks > 0
    union all
    select 'dwell', site_id, day, class_id, null, null, dwell_from_s, dwell_to_s, tracks, null
    from histogram
    where tracks > 0
)

select published.*, coalesce(classes.class_name, 'class ' || published.class_id) as class_name
from published
left join {{ ref('stg_classes') }} as classes using (class_id)
