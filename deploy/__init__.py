"""What a cluster needs beside the package: the entry of submitted jobs, container, manifests, dashboards."""
