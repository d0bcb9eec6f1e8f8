{{ config(meta={'dagster': {'ref': {'name': 'publication'}}}) }}
-- No published number is larger than the exact one that it stands for, on the days of this run.
select 1 as failing
from {{ ref('publication') }} as published
left join (
    select site_id, day, class_id, sum(tracks) as tracks, sum(detections) as detections
    from {{ ref('hourly_cells') }}
    group by site_id, day, class_id
) as truth using (site_id, day, class_id)
join ({{ local_days() }}) as covered on covered.site_id = published.site_id and covered.local_day = published.day
where published.kind = 'site_day'
  and (truth.tracks is null or published.tracks > truth.tracks or published.detections > truth.detections)
