"""The paper's tables and figures, rebuilt by one command: ``python -m intff_lightning.reproduce NAME``.

``rows`` says what the paper reports, ``recipes`` how each row is trained (the author's way, ours, and ours by class),
``runs`` trains one row with one seed and goes on where it was interrupted, ``tables`` and ``figures`` write what came
out, and ``equivalence`` is the paper's section 6 in numbers.
"""
