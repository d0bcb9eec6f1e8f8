{#- The expression is true in every row. Selects a constant: a failing row must not get into a log. -#}
{% test holds(model, expression) %}
select 1 as failing from {{ model }} where not coalesce({{ expression }}, false)
{% endtest %}
