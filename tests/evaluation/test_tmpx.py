import json
def test_a(evaluated):
    from qa_dist.data.prepared import read_prepared
    for p in read_prepared(evaluated).shards("dev"):
        for l in evaluated.predictions_file(8,p.name).read_text().splitlines()[:6]:
            r=json.loads(l); print(r['text'], r['null_odds'], r['f1'], [(a,b) for a,b,c in r['n_best']][:3], len(r['n_best']))
