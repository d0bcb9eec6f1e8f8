{#- No count under k is there. -#}
{% test at_least_k(model, column_name) %}
select 1 as failing from {{ model }} where coalesce({{ column_name }}, 0) < {{ least_count() }}
{% endtest %}
