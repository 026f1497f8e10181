"""The paper's tables and figures, rebuilt by one command: ``python -m intff_lightning.reproduce NAME``.

``command`` lists the commands; those of the paper's tables are in ``paper``. ``rows`` holds what the paper reports, and
``procedures`` how each row is trained: by the author, by us, and by us with goodness by class. ``runs`` trains one row
with one seed and resumes where it was interrupted, and ``rounds`` measures the author's procedure after every round.
``tables`` and ``figures`` write the results, and ``equivalence`` is the paper's section 6 in numbers. ``spaces`` and
``tuning`` search settings, and ``characteristics`` measures what the networks are like.
"""
