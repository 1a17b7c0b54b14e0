//! The recipes in `deploy/` say the same: five capabilities, an ordinary user, nothing that can be written but its own folders.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::shell;

fn read(name: &str) -> String {
    fs::read_to_string(shell::root().join("deploy").join(name)).unwrap()
}

/// The names after a key of the unit, without `CAP_`.
fn of_the_unit(key: &str) -> BTreeSet<String> {
    let unit = read("weighbridge.service");
    let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap();
    line.split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_owned()).collect()
}

fn manifest() -> Vec<Value> {
    // One document after the other: the parser takes one at a time.
    read("kubernetes/weighbridge.yaml")
        .split("\n---\n")
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .collect()
}

fn of_kind(kind: &str) -> Value {
    manifest().into_iter().find(|document| document["kind"] == kind).unwrap()
}

fn words(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn unit_image_and_daemon_set_give_the_same_five_capabilities() {
    let unit = of_the_unit("AmbientCapabilities");
    assert_eq!(unit.len(), 5);
    assert_eq!(of_the_unit("CapabilityBoundingSet"), unit);
    let pod = of_kind("DaemonSet");
    let agent = &pod["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(words(&agent["capabilities"]["add"]), unit);
    assert_eq!(words(&agent["capabilities"]["drop"]), BTreeSet::from(["ALL".to_owned()]));
    let recipe = read("container/Containerfile");
    let on_the_file = recipe.split("setcap ").nth(1).and_then(|rest| rest.split("+ep ").next()).unwrap();
    let on_the_file: BTreeSet<String> =
        on_the_file.split(',').map(|name| name.strip_prefix("cap_").unwrap().to_uppercase()).collect();
    assert_eq!(on_the_file, unit);
}

#[test]
fn the_pod_is_an_ordinary_user_on_a_root_that_cannot_be_written() {
    let pod = of_kind("DaemonSet");
    let spec = &pod["spec"]["template"]["spec"];
    assert_eq!(spec["hostPID"], true, "it names processes of the whole node");
    assert_eq!(spec["automountServiceAccountToken"], false);
    let agent = &spec["containers"][0];
    let context = &agent["securityContext"];
    for (key, value) in [("runAsNonRoot", true), ("readOnlyRootFilesystem", true), ("privileged", false)] {
        assert_eq!(context[key], value, "{key}");
    }
    let user = context["runAsUser"].as_u64().unwrap();
    let recipe = read("container/Containerfile");
    assert!(recipe.lines().any(|line| line == format!("USER {user}:{user}")), "the image's user is another");
    // What can be written, and who makes it.
    let made = words(&spec["initContainers"][0]["command"]);
    for mount in agent["volumeMounts"].as_array().unwrap() {
        let path = mount["mountPath"].as_str().unwrap();
        let is_made = made.iter().any(|word| word.starts_with(path) && word.ends_with("weighbridge"));
        assert_eq!(mount["readOnly"] != true, is_made, "{path}");
        let volume =
            spec["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]);
        let source = &volume.unwrap()["hostPath"]["path"];
        assert!(source.is_null() || source == path, "{path} is {source} on the node: paths must be the same");
    }
    assert!(made.contains(&user.to_string()), "the folders are another user's");
}

#[test]
fn the_configuration_of_the_pod_names_what_is_mounted() {
    let config: Value =
        serde_saphyr::from_str(of_kind("ConfigMap")["data"]["weighbridge.yaml"].as_str().unwrap()).unwrap();
    let pod = of_kind("DaemonSet");
    let agent = &pod["spec"]["template"]["spec"]["containers"][0];
    let mounted: Vec<&str> = agent["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    let is_mounted = |path: &str| mounted.iter().any(|mount| path.starts_with(mount));
    for path in [
        &config["state_dir"],
        &config["assets"][0]["paths"][0],
        &config["controlled"]["filesystems"][0]["mount"],
        &config["sinks"][0]["path"],
    ] {
        assert!(is_mounted(path.as_str().unwrap()), "{path} is not mounted");
    }
    let port = config["listen"].as_str().unwrap().rsplit(':').next().unwrap();
    assert_eq!(agent["ports"][0]["containerPort"].to_string(), port);
}
