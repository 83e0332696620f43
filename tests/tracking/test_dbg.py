import logging
from tests.tracking.conftest import *
def test_a(database, tmp_path, caplog):
    from tasks.tracking import mlflow_sink as m
    from tests.tracking.test_mlflow_sink import new_run
    s=m.MlflowSink(database,tmp_path)
    print(logging.getLogger("mlflow").handlers, logging.root.handlers, [h.filters for h in logging.root.handlers])
    a=s.create_run(new_run("one")); c=s._client
    c.delete_experiment(a.experiment_id)
    print(c.get_experiment_by_name("stories"))
    m.log.warning("direct")
    m._calling.set(True); m.log.warning("direct2"); m._calling.set(False)
    s.create_run(new_run("two"))
    print(caplog.text)
    assert 0
