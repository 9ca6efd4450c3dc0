"""From runs to a comparison. ``rows`` groups runs that differ in their seed only (``identity``), ``columns`` sorts their
measurements, ``comparison`` puts both together, and ``tests`` finds which differences hold. ``facts`` is what methods and
evaluations declare of themselves, ``reproduction`` puts ``published`` numbers beside measured ones, ``tables`` writes files."""
