"""From run directories to numbers that may be compared: ``rows`` and ``columns`` of the table, ``comparison`` fills it,
``tests`` tests differences; ``published`` and ``reproduction`` set published numbers beside."""
