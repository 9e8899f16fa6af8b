"""Data sets: real vectors, prepared once, with held-out queries and their true neighbours.

A data set is named by a text, ``SOURCE[:ROWS][@METRIC]``:

    glove-50            400,000 English words, 50 dimensions, cosine
    text-256            glosses, dictionary entries and package descriptions, embedded; cosine
    sift-128            descriptors of photographs, Euclidean
    file.hdf5           a file laid out as ann-benchmarks does
    base.npy,ask.npy    any two matrices; one alone has its queries held out of it
    glove-50:20000      its first 20,000 rows, for the same queries

``sources`` reads them, ``truth`` finds the true neighbours, ``dataset`` puts both into a folder of
a cache where later runs find them. The same name and the same source give the same bytes: rows are
drawn by a fixed seed, and the true neighbours are sums in float64 whose order does not depend on
the machine. (text-256 has the descriptions of the packages that the machine's lists name: lines of
results hold a checksum of the rows.)
"""
