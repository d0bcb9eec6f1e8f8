{{ config(meta={'covers': 'days'}) }}
with clips as (
    select
        coalesce(site_id, 'unknown') as site_id,
        coalesce(capture_date, {{ utc_date('received_at') }}) as day,
        state,
        extract(epoch from published_at - received_at)::double precision as lag_s
    from {{ source('cv', 'clips') }}
    where capture_date = any ({{ days() }}) or (capture_date is null and {{ on_days('received_at') }})
)

select
    site_id,
    day,
    state,
    count(*)::bigint as clips,
    -- NULL where none is published.
    percentile_cont(0.5) within group (order by lag_s) as lag_median_s,
    max(lag_s) as lag_max_s
from clips
group by site_id, day, state
