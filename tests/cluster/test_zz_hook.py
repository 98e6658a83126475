def test_fails(start_cluster):
    cluster = start_cluster(prefill=0, kvstores=0)
    assert False
