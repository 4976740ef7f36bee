//! Messages that cross the shards of a real gateway.
#![forbid(unsafe_code)]

mod harness;
mod schema;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use harness::{assert_exact, bench, code, gateway::Gateway, result, text};
use schema::Made;

const SECRET: &str = "a secret of at least thirty-two bytes";

/// Sessions of each shard, as the metrics say.
fn sessions(metrics: &str) -> Vec<u64> {
    let mut stream = TcpStream::connect(metrics).expect("the metrics are served");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n").expect("a request");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("text");
    let counts = page.lines().filter_map(|line| line.strip_prefix("weir_sessions{shard=")?.split_once("} ")?.1.parse().ok());
    counts.collect()
}

#[test]
fn messages_that_are_to_cross_shards_go_between_clients_that_are_at_home_on_different_ones() {
    const METRICS: [&str; 2] = ["--metrics", "127.0.0.1:0"];
    let serve = ["--shards", "2", "--auth-hs256-secret", SECRET, "--limits-frames-per-second", "0"];
    let gateway = Gateway::start(&[&serve[..], &METRICS].concat());
    let metrics = gateway.metrics.as_deref().expect("they were asked for");
    let args =
        ["route", "--pattern", "across", "--connections", "100", "--duration", "2s", "--hs256-secret", SECRET, "--metrics"];
    thread::scope(|scope| {
        let run = scope.spawn(|| result(&gateway.target, &[&args[..], &[metrics]].concat()));
        let mut all = Vec::new();
        // Until all are there, and the last that was only looked up is gone.
        while !run.is_finished() && all != [50, 50] {
            thread::sleep(Duration::from_millis(5));
            all = sessions(metrics);
        }
        let (code, object) = run.join().expect("a run");
        assert_eq!((code, &object["pattern"]), (0, &"across".into()), "{object:#}");
        assert_exact(&object);
        schema::check(&object, Made::default());
        // All of them have a partner: half are at home on each shard. By chance it would be so in one of twelve runs.
        assert_eq!(all, [50, 50]);
    });

    let single = Gateway::start(&[&["--dev", "--shards", "1"][..], &METRICS].concat());
    let metrics_of_single = single.metrics.as_deref().expect("they were asked for");
    for (metrics, words) in [
        (metrics_of_single, "start it with --shards 2"),
        (metrics, "give this run a gateway of its own"),
        ("127.0.0.1:1", "start the gateway with --metrics ADDRESS"),
        (&single.target, "is not the metrics of a Weir gateway"),
    ] {
        let output = bench(&["route", "--target", &single.target, "--pattern", "across", "--metrics", metrics]);
        assert_eq!(code(&output), 2, "{output:?}");
        assert!(text(&output).contains(words), "{words}: {}", text(&output));
    }
    let output = bench(&["route", "--target", "127.0.0.1:1", "--pattern", "across", "--metrics", metrics]);
    assert!(code(&output) == 2 && text(&output).contains("is the gateway running?"), "{}", text(&output));
}
