"""What evaluations share: what one is (``base``), what it is given (``context``), running several (``run``), values with intervals
(``scoring``), linear probes, k-NN, trainings inside a run (``nested``), and what is measured while a run trains (``online``)."""
