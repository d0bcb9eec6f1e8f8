{#-
  The incremental strategy of every table here: delete what the days cover, insert what they hold now, in one
  transaction. dbt's own delete+insert deletes only keys that come back, so a row whose clip is gone would stay.
  A model says what its days cover by `meta.covers`: the name of a macro of this file.
-#}
{%- macro get_incremental_rebuild_sql(arg_dict) -%}
  {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}
  {%- set covers = config.meta_get('covers') -%}
  delete from {{ arg_dict['target_relation'] }} as existing
  where {{ context['cover_' ~ covers]() }};

  insert into {{ arg_dict['target_relation'] }} ({{ columns }})
  select {{ columns }} from {{ arg_dict['temp_relation'] }};
{%- endmacro -%}

{%- macro cover_warm_track_days() -%}
  existing.track_day = any ({{ days() }}) and not {{ is_cold('existing.camera_id', 'existing.track_day') }}
{%- endmacro -%}

{%- macro cover_warm_hours() -%}
  {{ on_days('existing.hour') }} and not {{ is_cold('existing.camera_id', utc_date('existing.hour')) }}
{%- endmacro -%}

{%- macro cover_hours() -%}
  {{ on_days('existing.hour') }}
{%- endmacro -%}

{%- macro cover_days() -%}
  existing.day = any ({{ days() }})
{%- endmacro -%}

{%- macro cover_local_days() -%}
  exists (
    select from ({{ local_days() }}) as covered
    where covered.site_id = existing.site_id and covered.local_day = existing.day
  )
{%- endmacro -%}
