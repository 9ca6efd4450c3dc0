"""Parts that evaluations share. Begin with ``base``, their base class, and ``context``, their input. ``run`` runs several,
``scoring`` makes values with intervals, ``nested`` trains inside a run, and ``online`` measures while a run trains."""
