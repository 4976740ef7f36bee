//! The Prometheus endpoint: text exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    fmt::Write as _,
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use super::Stats;
use crate::limits::SCRAPERS_MAX;
use crate::stats::{Kind, PerCode, Plain, ShardStats, StoreStats};

/// A scraper that sends its request more slowly is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves `GET /metrics` and `GET /healthz` from now on.
///
/// # Errors
/// The address cannot be listened on.
pub(super) async fn listen(addr: SocketAddr, node: String, stats: Vec<Stats>, store: Arc<StoreStats>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(addr).await.with_context(|| format!("cannot serve metrics on {addr}"))?;
    // For whoever started the gateway and gave port 0. It may have stopped reading after the first line: that is no error.
    let _ = writeln!(io::stdout(), "weir: metrics on http://{}/metrics", listener.local_addr().unwrap_or(addr));
    let source = Arc::new((node, stats, store));
    let places = Arc::new(Semaphore::new(SCRAPERS_MAX));
    tokio::spawn(async move {
        loop {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::warn!("metrics: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let source = Arc::clone(&source);
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request, Arc::clone(&source)));
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    log::debug!("metrics: {error}");
                }
                drop(place);
            });
        }
    });
    Ok(())
}

type Source = Arc<(String, Vec<Stats>, Arc<StoreStats>)>;

async fn answer(request: Request<Incoming>, source: Source) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, "text/plain; version=0.0.4", render(&source.0, &source.1, &source.2)),
        (&Method::GET, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "text/plain", "here are /metrics and /healthz\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    Ok(response)
}

/// All numbers of all shards, and of the store.
fn render(node: &str, stats: &[Stats], store: &StoreStats) -> String {
    let mut out = String::new();
    let node = node.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let _ = writeln!(out, "# HELP weir_info The version that runs.\n# TYPE weir_info gauge");
    let _ = writeln!(out, "weir_info{{version=\"{}\",node=\"{node}\"}} 1", env!("CARGO_PKG_VERSION"));
    plain(&mut out, &stats.iter().map(|stats| stats.shard.plain().collect()).collect::<Vec<_>>());
    plain(&mut out, &stats.iter().map(|stats| stats.reactor.plain().collect()).collect::<Vec<_>>());
    for (name, kind, help, value) in store.plain() {
        let (name, kind) = exposed(&format!("store_{name}"), kind);
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    type Pick = fn(&ShardStats) -> &PerCode;
    let per_code: [(&str, &str, Pick); 2] = [
        ("weir_closed_total", "Connections that the gateway closed, by the code it gave.", |stats| &stats.closed),
        ("weir_refused_total", "Requests refused while their connection lived on, by code.", |stats| &stats.refused),
    ];
    for (name, help, pick) in per_code {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for (shard, stats) in stats.iter().enumerate() {
            for (code, value) in pick(&stats.shard).iter() {
                let _ = writeln!(out, "{name}{{shard=\"{shard}\",code=\"{}\"}} {value}", code.name());
            }
        }
    }
    out
}

/// What a number is called by Prometheus, and its type there.
fn exposed(name: &str, kind: Kind) -> (String, &'static str) {
    match kind {
        Kind::Counter => (format!("weir_{name}_total"), "counter"),
        Kind::Gauge => (format!("weir_{name}"), "gauge"),
    }
}

/// Numbers of one kind of struct, for each shard.
fn plain(out: &mut String, shards: &[Vec<Plain>]) {
    let Some(first) = shards.first() else { return };
    for (index, (name, kind, help, _)) in first.iter().enumerate() {
        let (name, kind) = exposed(name, *kind);
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (shard, numbers) in shards.iter().enumerate() {
            let (_, _, _, value) = numbers[index];
            let _ = writeln!(out, "{name}{{shard=\"{shard}\"}} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ErrorCode;

    #[test]
    fn every_number_is_there_once_for_each_shard() {
        let stats: Vec<Stats> = (0..2).map(|_| Stats::default()).collect();
        stats[1].shard.logins.add(7);
        stats[0].shard.closed.of(ErrorCode::BadMagic).add(3);
        let text = render("a\"b", &stats, &StoreStats::default());
        assert!(text.contains("weir_info{version=\"0.1.0\",node=\"a\\\"b\"} 1"));
        assert!(text.contains("weir_logins_total{shard=\"0\"} 0\nweir_logins_total{shard=\"1\"} 7\n"));
        assert!(text.contains("weir_closed_total{shard=\"0\",code=\"BAD_MAGIC\"} 3\n"));
        let mut lines: Vec<&str> =
            text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0).collect();
        let all = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), all, "no line twice");
    }
}
