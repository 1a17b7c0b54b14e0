//! Acts of who has taken nothing yet: they are told once he has, whatever became of the agent in between.

use tests::lab::process::Finished;

use super::away::committed;
use crate::{
    expect::Expected,
    world::{PATIENCE, Test, World, skip},
};

pub(crate) const TESTS: &[Test] = &[("a_listener_reads_after_the_agent_was_killed", listener)];

/// Who only heard what a holder sent is no holder with a channel; he is one once he reads for himself. The second agent tells no more
/// of the socket, and the third did not see it opened.
fn listener(w: &mut World) {
    let mut scene = w.prepare();
    scene.config.pin = true;
    scene.start();
    let script = include_str!("../techniques/scripts/overhears.py");
    let mut command = scene.python("overhears.py", script);
    let mut listener = scene.spawn(command.arg(&scene.model.files[0]));
    match listener.line().unwrap_or_else(|error| panic!("{error:#}")).as_str() {
        "heard" => {}
        refused => skip(refused),
    }
    scene.mark();
    for _ in 0..3 {
        // What happened a moment ago is told again by any next agent.
        committed(&mut scene);
        let lines = scene.kill();
        let told: Vec<String> =
            lines.iter().filter(|alert| alert.rule() == "WB-0008").map(ToString::to_string).collect();
        assert_eq!(told, [""; 0], "a listener is told of as a holder with a channel");
        scene.start();
    }
    listener.go().expect("it listens");
    let listener =
        listener.finish(PATIENCE).and_then(Finished::success).unwrap_or_else(|error| panic!("{error:#}"));
    let expected = [Expected::act(&scene, "WB-0008", "af_packet", &listener).to("AF_PACKET")];
    scene.expect(&expected);
}
