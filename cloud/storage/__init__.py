"""What the gateway and its workers keep: queue, ledger, requests and blobs, and the databases under them."""
