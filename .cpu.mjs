const b=process.cpuUsage(); await import(process.argv[2]); const a=process.cpuUsage(b); console.log(process.argv[2],((a.user+a.system)/1000).toFixed(0))
