{#- No two rows share these columns. -#}
{% test unique_combination(model, columns) %}
select count(*) as copies from {{ model }} group by {{ columns | join(', ') }} having count(*) > 1
{% endtest %}
