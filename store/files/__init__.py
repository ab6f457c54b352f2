"""Disks, buckets and other stores behind one protocol, for `location` and SOURCE. A write is atomic and durable."""
