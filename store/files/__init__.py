"""Files on a disk, in a bucket or in another object store, behind one protocol: `storage.Storage`."""
