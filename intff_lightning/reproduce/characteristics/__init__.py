"""What networks trained by IntFF are like, beside their accuracy, compared with backpropagation, paired by seed.

``networks`` trains and keeps the networks; ``registry`` lists the characteristics, each a file with a function
``measure(trained, data_dir, quick)``; ``intervals`` compares; ``report`` and ``figure`` write; ``command`` does it all.
"""
