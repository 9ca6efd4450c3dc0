"""What evaluations share: what one is (``base``), what it is given (``context``), running several (``run``), intervals
(``scoring``), the probe, trainings inside a run (``nested``), and what is measured while training goes on (``online``)."""
