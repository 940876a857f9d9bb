import time
def test_try(kafka_bootstrap, tmp_path):
    from tests.faults.scene import open_scene
    t=time.monotonic()
    with open_scene(tmp_path/"s", kafka_bootstrap) as scene:
        print("open", time.monotonic()-t); t=time.monotonic()
        time.sleep(2)
        scene.settle(); print("settle", time.monotonic()-t); t=time.monotonic()
        for p in ["kill_in_batch","kill_before_offsets","kill_before_commit","kill_after_commit", "late_reply","term_in_batch"]:
            pid=scene.arm(p).wait(); print(p,pid,time.monotonic()-t); t=time.monotonic()
            scene.settle(); print("settle", time.monotonic()-t); t=time.monotonic()
        scene.finish(); print("finish", time.monotonic()-t)
