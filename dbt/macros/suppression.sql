{#-
  The nodes of the binary tree over the dwell buckets, from the root down: lists of (low, high), buckets from 1.
  With eight buckets: 1-8; 1-4, 5-8; 1-2, 3-4, …; 1, 2, ….
-#}
{%- macro dwell_tree() -%}
  {%- set nodes = [] -%}
  {%- set widths = [8, 4, 2, 1] -%}
  {%- for width in widths -%}
    {%- for low in range(1, 9, width) -%}
      {%- do nodes.append((low, low + width - 1)) -%}
    {%- endfor -%}
  {%- endfor -%}
  {{- return(nodes) -}}
{%- endmacro -%}

{#- SQL for the count of a node, from the array `dwell`. -#}
{%- macro dwell_count(low, high) -%}
  ({%- for bucket in range(low, high + 1) -%}dwell[{{ bucket }}]{{ ' + ' if not loop.last }}{%- endfor -%})
{%- endmacro -%}

{#- SQL: the node is published in two parts, because both hold at least k. -#}
{%- macro dwell_splits(low, high) -%}
  {%- set middle = (low + high - 1) // 2 -%}
  ({{ dwell_count(low, middle) }} >= {{ least_count() }} and {{ dwell_count(middle + 1, high) }} >= {{ least_count() }})
{%- endmacro -%}

{#- SQL: the node is published as one number: all nodes above it split, it does not. -#}
{%- macro dwell_published(low, high) -%}
  {%- set conditions = [] -%}
  {%- for above_low, above_high in dwell_tree() -%}
    {%- if above_low <= low and above_high >= high and (above_low, above_high) != (low, high) -%}
      {%- do conditions.append(dwell_splits(above_low, above_high)) -%}
    {%- endif -%}
  {%- endfor -%}
  {%- if low != high -%}
    {%- do conditions.append('not ' ~ dwell_splits(low, high)) -%}
  {%- endif -%}
  {{- conditions | join(' and ') -}}
{%- endmacro -%}
