//! K-means and its assignment.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("kmeans")
}
