"""Data sets: vectors, prepared once, with held-out queries and their true neighbours.

A data set is named ``SOURCE[:ROWS][@METRIC]``:

    glove-50            400,000 English words, 50 dimensions, cosine
    text-256            glosses, dictionary entries and package descriptions, embedded; cosine
    sift-128            descriptors of photographs, Euclidean
    glove-DIM           glove-50 through a fixed random two-layer net to DIM dimensions, cosine
    latent-DIM          201,000 synthetic points, Euclidean: 2,000 clusters on a curved
                        20-dimensional surface in DIM dimensions, plus noise
    file.hdf5           a file in the layout of ann-benchmarks
    base.npy,ask.npy    two matrices, base and queries; of a single one, queries are held out
    glove-50:20000      the first 20,000 rows of glove-50, with the same queries

``sources`` reads the vectors, ``truth`` finds the true neighbours, ``dataset`` stores both in a
cache folder for later runs. The same name and the same source give the same bytes: rows are drawn
with a fixed seed, and the distances to the true neighbours are float64 sums in an order that does
not depend on the machine. The exceptions are text-256, which contains the descriptions of the
packages in the machine's package lists, and the products of matrices in glove-DIM and latent-DIM,
whose last bits depend on the BLAS; lines of results therefore hold a checksum of the rows.
"""
