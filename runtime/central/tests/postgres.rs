//! The centre's log on PostgreSQL, on a private server.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use selvedge_central::{CentralLog, LogError, PostgresCentral, PostgresOptions};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::{Origin, Pushed};

use crate::support::postgres::Postgres;
use crate::support::{Fixture, append, cases, entries, head, model, push, taken, texts};

async fn open(address: &str) -> Arc<dyn CentralLog> {
    Arc::new(PostgresCentral::open(&PostgresOptions::new(address, "a-centre")).await.expect("open"))
}

fn fixture(address: String) -> Fixture {
    Fixture {
        open: Box::new(move || {
            let address = address.clone();
            Box::pin(async move { open(&address).await })
        }),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime")
}

/// One server for all of them: it takes longer to start than a case takes.
#[test]
fn conforms() {
    let server = Postgres::start();
    let runtime = runtime();
    macro_rules! run {
        ($($case:ident),* $(,)?) => {
            $(
                eprintln!("case {}", stringify!($case));
                let address = server.database(stringify!($case));
                runtime.block_on(cases::$case(&fixture(address)));
            )*
        };
    }
    run!(
        order_and_reopening,
        duplicates_and_gaps,
        refusals,
        epochs,
        concurrent_appends_have_no_gaps,
        waiting_misses_nothing,
        snapshots_and_trimming,
        erasure,
        blobs_and_notes,
    );
    eprintln!("case random operations");
    let count = std::cell::Cell::new(0);
    model::random_operations(&runtime, 16, &|| {
        count.set(count.get() + 1);
        fixture(server.database(&format!("random_{}", count.get())))
    });
}

#[test]
fn several_centres_share_one_database() {
    let server = Postgres::start();
    let address = server.database("shared");
    runtime().block_on(async {
        // They make the tables at the same time.
        let (one, two, three) = tokio::join!(open(&address), open(&address), open(&address));
        assert!(one.id() == two.id() && two.id() == three.id());
        cases::no_gaps(&[Arc::clone(&one), Arc::clone(&two)], 30).await;

        // What one erases, another does not tell from memory.
        let at = append(&*one, push(9, 1, 7, 0, &["a|secret"])).await;
        assert_eq!(at, taken(&[1]));
        assert_eq!(texts(&*one, 9, 0).await[0].3, "a|secret");
        assert_eq!(two.erase(ShardId(9), vec![(1, b"a|".to_vec())]).await, Ok(1));
        one.heads().await.expect("heads");
        assert_eq!(texts(&*one, 9, 0).await[0].3, "a|");

        // An epoch that one begins fences the others.
        let epoch = two.bump_epoch().await.expect("an epoch");
        assert_eq!(append(&*one, push(9, 1, 7, 1, &["b|"])).await, Pushed::Epoch { epoch });
        assert_eq!(append(&*one, push(9, epoch, 7, 1, &["b|"])).await, taken(&[2]));
        assert_eq!(append(&*two, push(9, epoch, 8, 0, &["b|", "c|"])).await, taken(&[2, 3]));
    });
}

/// Backends are killed under the appends, also in the middle of a commit. Whoever gets an error sends again, and the watermark tells.
#[test]
fn killed_connections_lose_and_double_nothing() {
    const EDGES: u64 = 4;
    let server = Postgres::start();
    let address = server.database("killed");
    runtime().block_on(async {
        let log = open(&address).await;
        let (config, other) = (address.parse::<tokio_postgres::Config>().expect("an address"), tokio_postgres::NoTls);
        let (killer, connection) = config.connect(other).await.expect("connect");
        let connection = tokio::spawn(connection);
        let (stop, errors) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut edges = tokio::task::JoinSet::new();
        for edge in 1..=EDGES {
            let (log, stop, errors) = (Arc::clone(&log), Arc::clone(&stop), Arc::clone(&errors));
            edges.spawn(async move {
                let mut next = 0;
                while !stop.load(Ordering::SeqCst) {
                    let (a, b) = (format!("{edge}-{next}|"), format!("|{edge}-{}", next + 1));
                    match log.append(vec![push(1, 1, edge, next, &[&a, &b])]).await {
                        Ok(answers) => match &answers[..] {
                            [Pushed::Taken { seqs }] => {
                                assert_eq!(seqs.len(), 2);
                                next += 2;
                            }
                            // It was committed, but the answer was lost.
                            [Pushed::Behind { watermark, .. }] if *watermark == next + 2 => next += 2,
                            other => panic!("{other:?} after {next}"),
                        },
                        Err(LogError::Unavailable(_)) => {
                            errors.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                (edge, next)
            });
        }
        let mut kills = 0;
        while kills < 300 {
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE application_name = 'selvedge' AND state <> 'idle'";
            kills += killer.query_one(sql, &[]).await.expect("kill").get::<_, i64>(0);
            tokio::task::yield_now().await;
        }
        stop.store(true, Ordering::SeqCst);
        let mut expected = Vec::new();
        while let Some(edge) = edges.join_next().await {
            let (edge, numbers) = edge.expect("an edge");
            assert_eq!(log.watermark(ShardId(1), Origin(edge)).await, Ok(numbers));
            expected.extend((1..=numbers).map(|number| (edge, number)));
        }
        let errors = errors.load(Ordering::SeqCst);
        eprintln!("{kills} kills, {errors} errors, {} changes", expected.len());
        assert!(errors > 0, "no append met a kill");
        let found = entries(&*log, 1, 0).await;
        assert_eq!(head(&*log, 1).await.seq, found.len() as u64);
        let mut numbers: Vec<_> = found.iter().map(|entry| (entry.origin.0, entry.number)).collect();
        numbers.sort_unstable();
        expected.sort_unstable();
        assert_eq!(numbers, expected, "each exactly once");
        drop(killer);
        connection.await.expect("joined").expect("closed");
    });
}

#[test]
fn says_what_is_wrong_with_the_database() {
    let server = Postgres::start_with(&["synchronous_commit=off"], &[]);
    let address = server.database("careless");
    runtime().block_on(async {
        let of = async |address: &str| PostgresCentral::open(&PostgresOptions::new(address, "x")).await.err();
        assert!(
            matches!(of(&address).await, Some(LogError::Configuration(text)) if text.contains("synchronous_commit"))
        );
        let missing = address.replace("careless", "missing");
        assert!(matches!(of(&missing).await, Some(LogError::Configuration(text)) if text.contains("missing")));
        let port = server.port();
        drop(server);
        let gone = of(&format!("postgres://postgres@127.0.0.1:{port}/careless")).await;
        assert!(matches!(gone, Some(LogError::Unavailable(_))), "{gone:?}");
    });
}

/// A root and a certificate that it signed for this machine: root, certificate, key, as PEM.
fn certificates() -> (String, String, String) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut root = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_key = rcgen::KeyPair::generate().expect("a key");
    let root_pem = root.self_signed(&root_key).expect("a root").pem();
    let issuer = rcgen::Issuer::new(root, root_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let server = rcgen::CertificateParams::new(names).expect("parameters").signed_by(&key, &issuer);
    (root_pem, server.expect("a certificate").pem(), key.serialize_pem())
}

#[test]
fn tls_follows_the_address() {
    let (root, certificate, key) = certificates();
    let files: [(&str, &[u8]); 2] = [("server.crt", certificate.as_bytes()), ("server.key", key.as_bytes())];
    let server = Postgres::start_with(&["ssl=on"], &files);
    let address = server.database("tls");
    let folder = tempfile::tempdir().expect("a folder");
    let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
    std::fs::write(&right, root).expect("write");
    std::fs::write(&wrong, certificates().0).expect("write");
    runtime().block_on(async {
        let (other, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.expect("connect");
        let connection = tokio::spawn(connection);
        let of = async |suffix: &str| {
            let log = PostgresCentral::open(&PostgresOptions::new(format!("{address}?{suffix}"), "x")).await?;
            assert_eq!(append(&log, push(1, 1, 0, 0, &["a|"])).await, taken(&[1]));
            let sql = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                WHERE application_name = 'selvedge'";
            let row = other.query_one(sql, &[]).await.expect("its connections");
            let (encrypted, all): (i64, i64) = (row.get(0), row.get(1));
            assert!(all > 0 && (encrypted == 0 || encrypted == all));
            let pids =
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'selvedge'";
            drop(log);
            other.query(pids, &[]).await.expect("closed before the next looks");
            Ok::<bool, LogError>(encrypted > 0)
        };
        let root = |path: &std::path::Path| format!("sslrootcert={}", path.display());
        assert_eq!(of("sslmode=disable").await, Ok(false));
        assert_eq!(of("sslmode=require").await, Ok(true));
        assert_eq!(of(&format!("sslmode=verify-full&{}", root(&right))).await, Ok(true));
        for refused in ["sslmode=verify-full".to_owned(), format!("sslmode=verify-full&{}", root(&wrong))] {
            let outcome = of(&refused).await;
            assert!(matches!(outcome, Err(LogError::Configuration(_))), "{refused}: {outcome:?}");
        }
        drop(other);
        connection.await.expect("joined").expect("closed");
    });
}
