{#-
  The days to rebuild, sorted, each checked to be an ISO date: nothing else gets from outside into SQL.
  From the variable `days`, or else CV_DBT_DAYS, joined by commas. Only asked for when SQL is made to be run: what a
  model's parsing reads becomes a reason to parse everything again.
-#}
{%- macro day_list() -%}
  {%- set found = [] -%}
  {%- if execute -%}
    {%- for day in var('days') or env_var('CV_DBT_DAYS', '').split(',') -%}
      {%- set text = day | string -%}
      {%- if modules.re.fullmatch('[0-9]{4}-[0-9]{2}-[0-9]{2}', text) -%}
        {%- do found.append(text) -%}
      {%- elif text -%}
        {{- exceptions.raise_compiler_error("days holds '" ~ text ~ "'; allowed are UTC dates like 2026-01-31") -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- return(found | unique | sort) -}}
{%- endmacro -%}

{#- The least count that analysts may see: the variable `k`, or else CV_DBT_K. -#}
{%- macro least_count() -%}
  {%- if not execute -%}{{- return(5) -}}{%- endif -%}
  {{- return((var('k') or env_var('CV_DBT_K')) | int) -}}
{%- endmacro -%}

{#- The days as an array of dates. -#}
{%- macro days() -%}
  array[{% for day in day_list() %}'{{ day }}'{{ ', ' if not loop.last }}{% endfor %}]::date[]
{%- endmacro -%}

{#- The UTC date of a timestamp. -#}
{%- macro utc_date(moment) -%}
  (({{ moment }}) at time zone 'UTC')::date
{%- endmacro -%}

{#- True where `moment` lies on one of the days; the outer bounds let PostgreSQL skip the other partitions. -#}
{%- macro on_days(moment) -%}
  {%- set listed = day_list() -%}
  {%- if listed -%}
  ({{ moment }} >= timestamptz '{{ listed | first }} 00:00:00+00'
   and {{ moment }} < timestamptz '{{ listed | last }} 00:00:00+00' + interval '24 hours'
   and {{ utc_date(moment) }} = any ({{ days() }}))
  {%- else -%}
  false
  {%- endif -%}
{%- endmacro -%}

{#- The sites' local days that share a moment with one of the UTC days: (site_id, local_day). -#}
{%- macro local_days() -%}
  select distinct sites.site_id, overlap.local_day::date as local_day
  from {{ source('cv', 'sites') }} as sites
  cross join unnest({{ days() }}) as utc (day)
  cross join lateral generate_series(
      (((utc.day::timestamp at time zone 'UTC') at time zone sites.time_zone)::date)::timestamp,
      ((((utc.day + 1)::timestamp at time zone 'UTC' - interval '1 microsecond') at time zone sites.time_zone)::date)::timestamp,
      interval '1 day'
  ) as overlap (local_day)
{%- endmacro -%}

{#- Edges of the dwell buckets, seconds: bucket i holds edges[i] <= dwell < edges[i + 1]; the last has no end. -#}
{%- macro dwell_edges() -%}
  {{- return([0, 2, 5, 10, 30, 60, 300, 900]) -}}
{%- endmacro -%}

{#- The dwell buckets as rows: (bucket, counted from 1, from_s, to_s; the last has no to_s). -#}
{%- macro dwell_buckets() -%}
  {%- set edges = dwell_edges() -%}
  select * from (values
    {%- for edge in edges %}
    ({{ loop.index }}, {{ edge }}, {{ 'null::integer' if loop.last else edges[loop.index] }}){{ ',' if not loop.last }}
    {%- endfor %}
  ) as listed (bucket, from_s, to_s)
{%- endmacro -%}
