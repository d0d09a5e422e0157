//! The demo with several edges: a centre, edges that follow it, and the storefront before the first.

use std::net::SocketAddr;

use anyhow::Result;

use crate::demo::{DemoArguments, Setting, address, began_before, key, start};
use crate::postgres::Postgres;
use crate::shell::root;

/// Where further edges are: at ports that are free.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Starts everything and waits until it is interrupted. What is started is stopped in the reverse order: the storefront, edges, the centre, the database.
pub fn run(arguments: &DemoArguments, setting: &Setting, edges: u8) -> Result<()> {
    let data = arguments.data.clone().unwrap_or_else(|| root().join("target/demo-edges"));
    // A database that is made anew is another log, which edges of an earlier one refuse to follow.
    let earlier = began_before(&data, arguments.fresh || arguments.postgres)?;
    let edge_key = key("ek")?;
    let postgres = arguments.postgres.then(Postgres::start).transpose()?;

    let mut centre = setting.selvedge();
    centre.arg("central").arg("--data").arg(data.join("centre"));
    centre.args(["--listen", &arguments.central.to_string(), "--admin", &arguments.central_admin.to_string()]);
    centre.envs(setting.keys.clone()).env("SELVEDGE_EDGE_KEYS", &edge_key);
    if let Some(postgres) = &postgres {
        centre.args(["--store", &postgres.url()]);
    }
    setting.release(&mut centre)?;
    let (_centre, centre_ready) = start(centre, "the centre")?;
    let central = address(&centre_ready, "central");

    let (mut running, mut first) = (Vec::new(), String::new());
    let mut lines = Vec::new();
    for number in 1..=edges {
        let (listen, admin) = if number == 1 { (arguments.listen, arguments.admin) } else { (ANY, ANY) };
        let name = format!("edge-{number}");
        let mut edge = setting.edge("edge", &data.join(&name), listen, admin);
        edge.args(["--central", &central, "--name", &name]).env("SELVEDGE_EDGE_KEY", &edge_key);
        let (process, ready) = start(edge, &name)?;
        running.push(process);
        let public = address(&ready, "public");
        let at = address(&ready, "admin");
        lines.push(format!(
            "{name} is at {public}, its metrics at {at}/metrics, what it decided and why at {at}/admin/."
        ));
        if number == 1 {
            first = public;
        }
    }
    let (_shop, shop_ready) = start(setting.storefront(&first), "the storefront")?;

    setting.say_storefront(&shop_ready);
    let admin = address(&centre_ready, "admin");
    let store = if arguments.postgres { "PostgreSQL" } else { "redb" };
    println!("The centre is at {central}, its log on {store}.");
    lines.iter().for_each(|line| println!("{line}"));
    println!("How they are: target/release/selvedge status --admin {admin}");
    println!("Whether all hold the same: target/release/selvedge central verify --admin {admin}");
    println!("export SELVEDGE_EDGE_KEY={edge_key}");
    setting.wait(arguments, earlier.then_some(&data))
}
