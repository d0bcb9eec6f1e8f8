{#-
  True where a camera's rows of a UTC day are in Parquet (docs/warehouse.md): what was built from them stays as it is.
  A day goes cold only when it is built, and whatever would change it brings it back to PostgreSQL first.
-#}
{%- macro is_cold(camera_id, day) -%}
  exists (
    select from {{ source('cv', 'cold_files') }} as cold
    where cold.camera_id = {{ camera_id }} and cold.day = {{ day }} and cold.state in ('live', 'expired')
  )
{%- endmacro -%}

{#- Nothing goes cold or comes back while a model reads, deletes and inserts: it would see half of it. -#}
{%- macro keep_cold_as_it_is() -%}
  lock table {{ source('cv', 'cold_files') }} in share mode
{%- endmacro -%}
