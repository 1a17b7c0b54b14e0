//! The way of bytes as a tree, from the asset down to where they went. It must not know where the edges came from: they can
//! be in any order, lead round in a circle, or be made up.

use crate::{
    alerts::{human_bytes, printable},
    event::{Edge, Node},
};

/// Deepest and longest that is drawn.
const MOST: usize = 64;

/// One line for each edge, its bytes on the branch.
pub(super) fn draw(edges: &[Edge]) -> String {
    let edges = &edges[..edges.len().min(MOST)];
    let is_end = |node: &Node| edges.iter().any(|edge| edge.to == *node);
    let mut out = String::new();
    let mut drawn = vec![false; edges.len()];
    // Whatever no root leads to is in a circle, and is drawn from its first edge.
    let roots = edges.iter().filter(|edge| !is_end(&edge.from)).chain(edges);
    for root in roots {
        let is_new = edges.iter().zip(&drawn).any(|(edge, done)| edge.from == root.from && !done);
        if is_new {
            out += &format!("{}\n", name(&root.from));
            below(&root.from, edges, &mut drawn, "", 0, &mut out);
        }
    }
    out
}

fn below(node: &Node, edges: &[Edge], drawn: &mut [bool], indent: &str, depth: usize, out: &mut String) {
    if depth >= MOST {
        return;
    }
    let next: Vec<usize> = (0..edges.len()).filter(|&at| edges[at].from == *node && !drawn[at]).collect();
    for (nth, &at) in next.iter().enumerate() {
        // A branch drawn meanwhile leads back here.
        if std::mem::replace(&mut drawn[at], true) {
            continue;
        }
        let is_last = nth + 1 == next.len();
        let (branch, rest) = if is_last { ("└─", "   ") } else { ("├─", "│  ") };
        *out += &format!("{indent}{branch} {} ─▶ {}\n", human_bytes(edges[at].bytes), name(&edges[at].to));
        below(&edges[at].to, edges, drawn, &format!("{indent}{rest}"), depth + 1, out);
    }
}

fn name(node: &Node) -> String {
    let pid = node.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    format!("{} {}{pid}", node.kind, printable(&node.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: (&'static str, &str), to: (&'static str, &str), mib: u64) -> Edge {
        let node = |(kind, name): (&'static str, &str)| Node { kind, name: name.to_owned(), pid: None };
        Edge { from: node(from), to: node(to), bytes: mib << 20 }
    }

    #[test]
    fn a_way_is_a_stair_and_a_fork_is_a_fork() {
        let (asset, tar, pipe) = (("asset", "llm"), ("process", "tar"), ("pipe", "0:14:7"));
        let (ssh, peer, copy) = (("process", "ssh"), ("peer", "203.0.113.9:22/tcp"), ("file", "/mnt/usb/w"));
        let edges = [
            edge(asset, tar, 200),
            edge(tar, pipe, 200),
            edge(tar, copy, 3),
            edge(pipe, ssh, 150),
            edge(ssh, peer, 150),
        ];
        insta::assert_snapshot!(draw(&edges), @r##"
        asset llm
        └─ 200.0 MiB ─▶ process tar
           ├─ 200.0 MiB ─▶ pipe 0:14:7
           │  └─ 150.0 MiB ─▶ process ssh
           │     └─ 150.0 MiB ─▶ peer 203.0.113.9:22/tcp
           └─ 3.0 MiB ─▶ file /mnt/usb/w
        "##);
    }

    #[test]
    fn circles_end_and_names_cannot_drive_a_terminal() {
        let (a, b) = (("process", "a\u{1b}[2J"), ("process", "b"));
        let edges = [edge(a, b, 1), edge(b, a, 1), edge(a, a, 2)];
        insta::assert_snapshot!(draw(&edges), @r##"
        process a\u{1b}[2J
        ├─ 1.0 MiB ─▶ process b
        │  └─ 1.0 MiB ─▶ process a\u{1b}[2J
        │     └─ 2.0 MiB ─▶ process a\u{1b}[2J
        "##);
        assert_eq!(draw(&[]), "");
    }
}
