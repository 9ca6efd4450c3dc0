"""From runs to a comparison: begin with ``comparison``. ``rows`` groups runs that differ only in seed (``identity``), ``columns``
sorts measurements, ``tests`` finds significant differences. ``facts`` reads the declarations of methods and evaluations,
``reproduction`` compares with ``published`` numbers, ``tables`` writes files."""
