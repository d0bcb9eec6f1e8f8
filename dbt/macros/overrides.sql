{#- Schemas are named as they are configured: aggregates, marts, restricted. -#}
{%- macro generate_schema_name(custom_schema_name, node) -%}
  {{- custom_schema_name or target.schema -}}
{%- endmacro -%}

{#- A test's `where` may say __days__: the days of this run, so that a test reads what the run wrote. -#}
{%- macro get_where_subquery(relation) -%}
  {%- set where = config.get('where', '') -%}
  {%- if where -%}
    (select * from {{ relation }} where {{ where | replace('__days__', days()) }}) as tested
  {%- else -%}
    {{ relation }}
  {%- endif -%}
{%- endmacro -%}
