package test

const dashboardFile = root + "monitoring/grafana/dashboard.json"
