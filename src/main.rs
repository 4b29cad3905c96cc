#[tokio::main]
async fn main() -> anyhow::Result<()> {
    use clap::Parser as _;
    #[derive(clap::Parser)]
    struct A { url: String, #[command(flatten)] a: chartgate::cli::bench::engine::Arguments }
    let a = A::parse();
    tracing_subscriber::fmt().with_env_filter("warn").init();
    let options: sqlx::postgres::PgConnectOptions = a.url.parse()?;
    chartgate::db::migrate::run(&options).await?;
    let v = chartgate::cli::bench::engine::run(&chartgate::cli::bench::Prepared { options }, &a.a).await?;
    println!("{v}");
    Ok(())
}
