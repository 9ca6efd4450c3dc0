"""What evaluations share: their base class (``base``), their input (``context``), running several (``run``), values with intervals
(``scoring``), linear probes, k-NN, trainings inside a run (``nested``), and measurements while a run trains (``online``)."""
